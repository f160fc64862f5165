-- Opens a direction transaction, or finds it open: then only the route is replaced.
-- KEYS[1] nms:transaction:<initiator><tx>
-- ARGV[1] new handle
-- ARGV[2] initiator, ARGV[3] responder (node IDs)
-- ARGV[4] route
-- ARGV[5] what is to be saved, sealed for its place nms:direction:<new handle>
-- ARGV[6] lifetime, seconds
-- returns {handle, state, saved}
local handle = redis.call('GET', KEYS[1])
if handle then
  local direction = 'nms:direction:' .. handle
  if redis.call('EXISTS', direction) == 1 then
    redis.call('HSET', direction, 'route', ARGV[4])
    local found = redis.call('HMGET', direction, 'state', 'saved')
    return {handle, found[1], found[2]}
  end
end
local direction = 'nms:direction:' .. ARGV[1]
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[6])
redis.call('HSET', direction, 'state', 'pending', 'initiator', ARGV[2], 'responder', ARGV[3], 'route', ARGV[4],
  'saved', ARGV[5])
redis.call('EXPIRE', direction, ARGV[6])
return {ARGV[1], 'pending', ARGV[5]}
