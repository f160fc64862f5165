-- A duplicate of a DirectionRequest: its route replaces the saved one, and what is saved comes back.
-- KEYS[1] nms:direction:<handle>
-- ARGV[1] initiator, ARGV[2] route
-- ARGV[3...] fields of nms:node:<node>
-- returns nil | {state, saved, then as find_target: responder, {fields}, leases}
local found = redis.call('HMGET', KEYS[1], 'state', 'saved', 'initiator', 'responder')
if found[3] ~= ARGV[1] then return nil end
redis.call('HSET', KEYS[1], 'route', ARGV[2])
local id = found[4]
local function lease(family)
  return redis.call('HMGET', 'nms:lease:' .. family .. ':' .. id, 'observed', 'service', 'candidates', 'refreshed',
    'round_trips')
end
local fields = redis.call('HMGET', 'nms:node:' .. id, unpack(ARGV, 3))
return {found[1], found[2], id, fields, lease('4'), lease('6')}
