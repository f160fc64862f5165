-- A member's heartbeat.
-- KEYS[1] fleet           sorted set: instance -> last heartbeat
-- KEYS[2] fleet:members   hash: instance -> encoded member
-- ARGV[1] unix seconds, or empty for this Redis' clock
-- ARGV[2] instance
-- ARGV[3] encoded member
local wall = tonumber(ARGV[1])
if not wall then
  local time = redis.call('TIME')
  wall = tonumber(time[1]) + tonumber(time[2]) / 1e6
end
redis.call('ZADD', KEYS[1], string.format('%.3f', wall), ARGV[2])
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
redis.call('EXPIRE', KEYS[1], 60)
redis.call('EXPIRE', KEYS[2], 60)
return 1
