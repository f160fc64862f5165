-- Opens a login transaction, or finds it open: checks the stamp, enrols a new static key, reserves its name,
-- numbers the common key, saves everything as pending.  All or nothing.
-- KEYS[1] as:login:<static><tx>
-- KEYS[2] as:node:<static>
-- KEYS[3] as:enrolment:<hash>        of the presented enrolment key
-- KEYS[4] as:enrolment:<hash>:used
-- KEYS[5] as:nodes
-- KEYS[6] as:name:<wanted name>
-- ARGV[1] static key
-- ARGV[2] stamp, 20 digits
-- ARGV[3] unix seconds
-- ARGV[4] wanted name; empty when it is not a valid one
-- ARGV[5] hash of the presented enrolment key; empty when there is none
-- ARGV[6] request, ARGV[7] route, ARGV[8] sealed common key
-- ARGV[9] lifetime of the transaction, seconds
-- ARGV[10] 'as:name:', for a name that the enrolment key fixes
-- returns {'stale'} | {'refused', LoginOutcome}
--       | {'pending' or 'done', request, common_key, key_number, name, generation, outcome, certificate}
local function saved()
  return redis.call('HMGET', KEYS[1], 'state', 'request', 'common_key', 'key_number', 'name', 'generation',
    'outcome', 'certificate')
end

if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[1], 'route', ARGV[7])
  return saved()
end

local node = redis.call('HMGET', KEYS[2], 'name', 'stamp', 'revoked', 'generation')
local name, generation = node[1], node[4]
if node[2] and ARGV[2] <= node[2] then return {'stale'} end
if node[3] == '1' then return {'refused', 7} end

if not name then
  if ARGV[5] == '' then return {'refused', 9} end
  local key = redis.call('HMGET', KEYS[3], 'name', 'uses', 'used', 'expires', 'revoked')
  if not key[2] then return {'refused', 1} end
  if key[5] == '1' then return {'refused', 3} end
  if tonumber(key[4]) > 0 and tonumber(ARGV[3]) >= tonumber(key[4]) then return {'refused', 2} end
  local consumed = redis.call('SISMEMBER', KEYS[4], ARGV[1]) == 1
  if not consumed and tonumber(key[2]) > 0 and tonumber(key[3]) >= tonumber(key[2]) then return {'refused', 4} end
  name = ARGV[4]
  local name_key = KEYS[6]
  if key[1] ~= '' then
    name = key[1]
    name_key = ARGV[10] .. name
  end
  if name == '' then return {'refused', 6} end
  local owner = redis.call('GET', name_key)
  if owner and owner ~= ARGV[1] then return {'refused', 5} end
  if not consumed then
    redis.call('SADD', KEYS[4], ARGV[1])
    redis.call('HINCRBY', KEYS[3], 'used', 1)
    local left = redis.call('PTTL', KEYS[3])
    if left > 0 then redis.call('PEXPIRE', KEYS[4], left) end
  end
  generation = '1'
  redis.call('SET', name_key, ARGV[1])
  redis.call('SADD', KEYS[5], ARGV[1])
  redis.call('HSET', KEYS[2], 'name', name, 'generation', generation, 'enrolment', ARGV[5])
end

redis.call('HSET', KEYS[2], 'stamp', ARGV[2])
local number = redis.call('HINCRBY', KEYS[2], 'key_number', 1)
redis.call('HSET', KEYS[1], 'state', 'pending', 'request', ARGV[6], 'route', ARGV[7], 'common_key', ARGV[8],
  'key_number', number, 'name', name, 'generation', generation)
redis.call('EXPIRE', KEYS[1], ARGV[9])
return saved()
