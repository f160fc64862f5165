-- Revokes a node at the AS and the NMS at once, and notes whom to tell: its live peers and itself.
-- KEYS[1] as:node:<static>
-- KEYS[2] nms:static:<static>
-- KEYS[3] nms:revocations
-- ARGV[1] unix seconds
-- ARGV[2] for how long to tell, seconds
-- returns nil for an unknown node | node ID, empty when it has never got one
if redis.call('EXISTS', KEYS[1]) == 0 then return nil end
local generation = redis.call('HGET', KEYS[1], 'generation')
if redis.call('HGET', KEYS[1], 'revoked') ~= '1' then
  generation = redis.call('HINCRBY', KEYS[1], 'generation', 1)
  redis.call('HSET', KEYS[1], 'revoked', '1')
end
local id = redis.call('GET', KEYS[2])
if not id then return '' end
local node = 'nms:node:' .. id
if redis.call('HGET', node, 'revoked') == '1' then return id end
redis.call('HSET', node, 'revoked', '1', 'generation', generation)
local pending = 'nms:revocation:' .. id
redis.call('DEL', pending)
redis.call('SADD', pending, id)
for _, peer in ipairs(redis.call('ZRANGEBYSCORE', 'nms:paths:' .. id, ARGV[1], '+inf')) do
  redis.call('SADD', pending, peer)
end
redis.call('EXPIRE', pending, ARGV[2])
redis.call('SET', 'nms:revoked:' .. id, generation - 1, 'EX', ARGV[2])  -- the last one it may hold a certificate of
redis.call('ZADD', KEYS[3], ARGV[1], id)
redis.call('EXPIRE', KEYS[3], ARGV[2])
return id
