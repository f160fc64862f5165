-- Makes, moves or refreshes a lease, only for a greater {key number, counter} than any before in this family and
-- for none that was seen in the other one: a replay moves nobody, from whichever family it comes.
-- KEYS[1] nms:lease:<family>:<node>
-- KEYS[2] nms:order:<node>
-- ARGV[1] family, '4' or '6'
-- ARGV[2] order: key number (10 digits), counter (20 digits)
-- ARGV[3] 'register', or 'refresh' for a lease that must exist
-- ARGV[4] observed endpoint, ARGV[5] service endpoint
-- ARGV[6] unix milliseconds
-- ARGV[7] lifetime of a lease, ARGV[8] of the order, seconds
-- ARGV[9] candidates, ARGV[10] capabilities, ARGV[11] round trips to relays (for 'register')
-- returns {'moved' | 'duplicate' | 'stale' | 'missing', observed endpoint of the lease}
local orders = redis.call('HMGET', KEYS[2], ARGV[1], 'recent')
local highest, recent = orders[1], orders[2] or ''
local observed = redis.call('HGET', KEYS[1], 'observed')
if ARGV[3] == 'refresh' and not observed then return {'missing', ARGV[4]} end
if highest and ARGV[2] == highest then
  if observed then return {'duplicate', observed} end
  return {'stale', ''}
end
if highest and ARGV[2] < highest then return {'stale', ''} end

-- The last accepted orders of both families, newest last; one older than all eight is refused as unknown.
local smallest = nil
for position = 1, #recent, 30 do
  local order = string.sub(recent, position, position + 29)
  if order == ARGV[2] then return {'stale', ''} end
  if not smallest or order < smallest then smallest = order end
end
if #recent >= 240 and ARGV[2] < smallest then return {'stale', ''} end
recent = string.sub(recent .. ARGV[2], -240)

redis.call('HSET', KEYS[2], ARGV[1], ARGV[2], 'recent', recent)
redis.call('EXPIRE', KEYS[2], ARGV[8])
redis.call('HSET', KEYS[1], 'observed', ARGV[4], 'service', ARGV[5], 'refreshed', ARGV[6])
if ARGV[3] == 'register' then
  redis.call('HSET', KEYS[1], 'candidates', ARGV[9], 'capabilities', ARGV[10], 'round_trips', ARGV[11])
end
redis.call('EXPIRE', KEYS[1], ARGV[7])
return {'moved', ARGV[4]}
