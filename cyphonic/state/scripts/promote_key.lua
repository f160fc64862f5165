-- The node has used its next common key: it becomes current, the current one previous for a short while.
-- KEYS[1] nms:node:<node>
-- ARGV[1] key number, 10 digits
-- ARGV[2] unix seconds until which the previous key is accepted, 10 digits
-- ARGV[3] signed certificate to store; empty: leave the stored one
-- ARGV[4] expiry of that certificate, unix seconds
-- returns 1
if redis.call('EXISTS', KEYS[1]) == 0 then return 1 end
local slots = redis.call('HMGET', KEYS[1], 'next', 'current')
local following, current = slots[1], slots[2]
if following and string.sub(following, 1, 10) == ARGV[1] then
  if current then
    local ends = string.sub(current, 11, 20)
    if ARGV[2] < ends then ends = ARGV[2] end
    redis.call('HSET', KEYS[1], 'previous', string.sub(current, 1, 10) .. ends .. string.sub(current, 21))
  end
  redis.call('HSET', KEYS[1], 'current', following)
  redis.call('HDEL', KEYS[1], 'next')
end
-- Of two registrations that race, the newer certificate stays.
local stored = redis.call('HGET', KEYS[1], 'certificate_expires')
if ARGV[3] ~= '' and (not stored or tonumber(ARGV[4]) >= tonumber(stored)) then
  redis.call('HSET', KEYS[1], 'certificate', ARGV[3], 'certificate_expires', ARGV[4])
end
return 1
