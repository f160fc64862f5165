-- Forgets a node; its name is free at once, its addresses rest.
-- KEYS[1] as:node:<static>
-- KEYS[2] nms:static:<static>
-- KEYS[3] as:nodes
-- KEYS[4] nms:ipv4:taken
-- KEYS[5] nms:resting:4
-- KEYS[6] nms:resting:6
-- ARGV[1] static key
-- ARGV[2] unix seconds when the addresses may be given again
-- ARGV[3] seconds for which a login that was under way may still come to its end
-- returns nil for an unknown node | node ID, empty when it has never got one
local entry = redis.call('HMGET', KEYS[1], 'name', 'enrolment')
if not entry[1] then return nil end
redis.call('DEL', KEYS[1], 'as:name:' .. entry[1])
redis.call('SREM', KEYS[3], ARGV[1])
-- What it consumed stays consumed, but it is no longer its own: a one-time key does not bring it back.
redis.call('SREM', 'as:enrolment:' .. entry[2] .. ':used', ARGV[1])
redis.call('SET', 'nms:deleted:' .. ARGV[1], 1, 'EX', ARGV[3])
local id = redis.call('GET', KEYS[2])
if not id then return '' end
local node = redis.call('HMGET', 'nms:node:' .. id, 'fqdn', 'ipv6', 'ipv4')
redis.call('DEL', KEYS[2], 'nms:node:' .. id, 'nms:name:' .. node[1], 'nms:address:' .. node[2],
  'nms:lease:4:' .. id, 'nms:lease:6:' .. id, 'nms:order:' .. id, 'nms:paths:' .. id)
redis.call('SREM', 'nms:revocation:' .. id, id)  -- without its keys it can no longer be told
redis.call('ZADD', KEYS[6], ARGV[2], node[2])
if node[3] ~= '' then
  redis.call('DEL', 'nms:address:' .. node[3])
  redis.call('DECR', KEYS[4])
  redis.call('ZADD', KEYS[5], ARGV[2], node[3])
end
return id
