-- The live members; the silent ones are removed.
-- KEYS[1] fleet           sorted set: instance -> last heartbeat
-- KEYS[2] fleet:members   hash: instance -> encoded member
-- ARGV[1] unix seconds, or empty for this Redis' clock
-- ARGV[2] seconds of silence after which a member is gone
-- returns the encoded members
local wall = tonumber(ARGV[1])
if not wall then
  local time = redis.call('TIME')
  wall = tonumber(time[1]) + tonumber(time[2]) / 1e6
end
local oldest = string.format('%.3f', wall - tonumber(ARGV[2]))
local gone = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. oldest)
for _, instance in ipairs(gone) do
  redis.call('ZREM', KEYS[1], instance)
  redis.call('HDEL', KEYS[2], instance)
end
local members = {}
for _, instance in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local member = redis.call('HGET', KEYS[2], instance)
  if member then members[#members + 1] = member end
end
return members
