-- Moves a direction from pending to done and records the live path; a later confirmation finds it done.
-- KEYS[1] nms:direction:<handle>
-- ARGV[1] node that confirms
-- ARGV[2] unix seconds when the path key ends
-- ARGV[3] lifetime of the path key, seconds
-- returns nil when there is no such transaction | {'wrong_responder'} | {'revoked'}
--       | {'done', initiator, route, saved}
local found = redis.call('HMGET', KEYS[1], 'state', 'initiator', 'responder', 'route', 'saved')
if not found[1] then return nil end
local initiator, responder = found[2], found[3]
if responder ~= ARGV[1] then return {'wrong_responder'} end
-- Exactly '0' or absent is alive; a deleted node has no fqdn.
for _, id in ipairs({initiator, responder}) do
  local node = redis.call('HMGET', 'nms:node:' .. id, 'fqdn', 'revoked')
  if not node[1] or node[2] == '1' then return {'revoked'} end
end
if found[1] == 'pending' then
  redis.call('HSET', KEYS[1], 'state', 'done')
  for id, peer in pairs({[initiator] = responder, [responder] = initiator}) do
    redis.call('ZREMRANGEBYSCORE', 'nms:paths:' .. id, '-inf', ARGV[2] - ARGV[3])
    redis.call('ZADD', 'nms:paths:' .. id, ARGV[2], peer)
    redis.call('EXPIRE', 'nms:paths:' .. id, ARGV[3])
  end
end
return {'done', initiator, found[4], found[5]}
