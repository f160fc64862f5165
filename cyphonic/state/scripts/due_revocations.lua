-- Takes the revocations that are to be pushed (again) now, each for one worker only.
-- KEYS[1] nms:revocations
-- ARGV[1] unix seconds
-- ARGV[2] seconds until the next push
-- returns node IDs
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, 16)
local taken = {}
for _, id in ipairs(due) do
  if redis.call('EXISTS', 'nms:revocation:' .. id) == 1 then
    redis.call('ZADD', KEYS[1], ARGV[1] + ARGV[2], id)
    taken[#taken + 1] = id
  else
    redis.call('ZREM', KEYS[1], id)
  end
end
return taken
