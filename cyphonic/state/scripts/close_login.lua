-- Moves a login from pending to done.  The first writer wins: a later one finds what the first has saved.
-- KEYS[1] as:login:<static><tx>
-- KEYS[2] as:node:<static>
-- ARGV[1] key number that the ack names
-- ARGV[2] LoginOutcome
-- ARGV[3] node ID
-- ARGV[4] signed certificate
-- returns nil when there is no such transaction
--       | {outcome, certificate, request, route, common_key, key_number}
if redis.call('HGET', KEYS[1], 'key_number') ~= ARGV[1] then return nil end
if redis.call('HGET', KEYS[1], 'state') == 'pending' then
  local outcome, certificate = ARGV[2], ARGV[4]
  local node = redis.call('HMGET', KEYS[2], 'name', 'revoked', 'generation')
  if not node[1] then
    outcome = '9'
  elseif node[2] == '1' or node[3] ~= redis.call('HGET', KEYS[1], 'generation') then
    outcome = '7'
  end
  if outcome == '0' then
    redis.call('HSET', KEYS[2], 'node_id', ARGV[3])
  else
    certificate = ''
  end
  redis.call('HSET', KEYS[1], 'state', 'done', 'outcome', outcome, 'certificate', certificate)
end
return redis.call('HMGET', KEYS[1], 'outcome', 'certificate', 'request', 'route', 'common_key', 'key_number')
