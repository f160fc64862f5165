-- A node by name or virtual address, with its leases.
-- KEYS[1] nms:name:<fqdn> or nms:address:<address>
-- ARGV    fields of nms:node:<node>
-- returns nil | {node ID, {fields}, {observed, service, candidates, refreshed, round_trips} for IPv4, the same for IPv6}
local id = redis.call('GET', KEYS[1])
if not id then return nil end
local function lease(family)
  return redis.call('HMGET', 'nms:lease:' .. family .. ':' .. id, 'observed', 'service', 'candidates', 'refreshed',
    'round_trips')
end
return {id, redis.call('HMGET', 'nms:node:' .. id, unpack(ARGV)), lease('4'), lease('6')}
