-- Gives a static key its node ID and virtual addresses, once, and stores its new common key as the next one.
-- KEYS[1] nms:static:<static>
-- KEYS[2] nms:name:<fqdn>
-- KEYS[3] nms:ipv4:taken
-- KEYS[4] nms:resting:4
-- KEYS[5] nms:resting:6
-- ARGV[1] static key
-- ARGV[2] FQDN
-- ARGV[3] common key: number (10 digits), expiry (10 digits), sealed key
-- ARGV[4] generation
-- ARGV[5] unix seconds
-- ARGV[6] node IDs to try, 16 bytes each
-- ARGV[7] IPv6 addresses to try, 16 bytes each
-- ARGV[8] first IPv4 address of the pool, as a number; empty when there is no pool
-- ARGV[9] how many addresses the pool has
-- ARGV[10] offsets into the pool to try, 4 bytes each; from the last one on every address is tried
-- returns {'stale'} for a common key older than the one stored, or a node deleted a moment ago
--       | {LoginOutcome, node ID, IPv6, IPv4}
-- IPv4 addresses are random, not counted up: a Redis that lost its last second must not give the same ones again.
local function free(address, resting)
  return redis.call('EXISTS', 'nms:address:' .. address) == 0 and not redis.call('ZSCORE', resting, address)
end

local function free_ipv4()
  if ARGV[8] == '' then return '' end
  local base, size = tonumber(ARGV[8]), tonumber(ARGV[9])
  local taken = tonumber(redis.call('GET', KEYS[3]) or '0')
  if taken + redis.call('ZCARD', KEYS[4]) >= size then return nil end
  local offset = 0
  for position = 1, #ARGV[10], 4 do
    offset = struct.unpack('>I4', ARGV[10], position) % size
    local address = struct.pack('>I4', base + offset)
    if free(address, KEYS[4]) then return address end
  end
  for step = 1, size do
    local address = struct.pack('>I4', base + (offset + step) % size)
    if free(address, KEYS[4]) then return address end
  end
  return nil
end

local function first_free(candidates, is_free)
  for position = 1, #candidates, 16 do
    local candidate = string.sub(candidates, position, position + 15)
    if is_free(candidate) then return candidate end
  end
  return nil
end

local function number(slot) return string.sub(slot, 1, 10) end

local id = redis.call('GET', KEYS[1])
if id then
  local node = redis.call('HMGET', 'nms:node:' .. id, 'revoked', 'ipv6', 'ipv4', 'current', 'next', 'generation')
  if node[1] == '1' then return {7, id, '', ''} end
  local newest = node[5] or node[4]
  if newest and number(ARGV[3]) < number(newest) then return {'stale'} end
  if not newest or number(ARGV[3]) > number(newest) then
    redis.call('HSET', 'nms:node:' .. id, 'next', ARGV[3])
    if tonumber(ARGV[4]) > tonumber(node[6]) then redis.call('HSET', 'nms:node:' .. id, 'generation', ARGV[4]) end
  end
  return {0, id, node[2], node[3]}
end

-- A login that was under way when its node was deleted must not bring half of it back.
if redis.call('EXISTS', 'nms:deleted:' .. ARGV[1]) == 1 then return {'stale'} end
if redis.call('EXISTS', KEYS[2]) == 1 then return {5, '', '', ''} end
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', ARGV[5])
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', ARGV[5])
id = first_free(ARGV[6], function(candidate) return redis.call('EXISTS', 'nms:node:' .. candidate) == 0 end)
local ipv6 = first_free(ARGV[7], function(candidate) return free(candidate, KEYS[5]) end)
local ipv4 = free_ipv4()
if not (id and ipv6 and ipv4) then return {8, '', '', ''} end

redis.call('SET', KEYS[1], id)
redis.call('SET', KEYS[2], id)
redis.call('SET', 'nms:address:' .. ipv6, id)
if ipv4 ~= '' then
  redis.call('SET', 'nms:address:' .. ipv4, id)
  redis.call('INCR', KEYS[3])
end
redis.call('HSET', 'nms:node:' .. id, 'static', ARGV[1], 'fqdn', ARGV[2], 'ipv6', ipv6, 'ipv4', ipv4,
  'generation', ARGV[4], 'next', ARGV[3])
return {0, id, ipv6, ipv4}
