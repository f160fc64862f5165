-- The node leaves: its leases of both families end, and no earlier message brings them back.
-- KEYS[1] nms:lease:4:<node>
-- KEYS[2] nms:lease:6:<node>
-- KEYS[3] nms:order:<node>
-- ARGV[1] order: key number (10 digits), counter (20 digits)
-- ARGV[2] lifetime of the order, seconds
-- returns 1, or 0 for an order that is not greater than all before
local orders = redis.call('HMGET', KEYS[3], '4', '6')
if orders[1] and ARGV[1] <= orders[1] then return 0 end
if orders[2] and ARGV[1] <= orders[2] then return 0 end
redis.call('HSET', KEYS[3], '4', ARGV[1], '6', ARGV[1])
redis.call('EXPIRE', KEYS[3], ARGV[2])
redis.call('DEL', KEYS[1], KEYS[2])
return 1
