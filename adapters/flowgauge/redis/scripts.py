"""What Redis does in one step, so that no crash and no other client comes between.

Both keys of a buffer hold the same tag in braces, so a cluster keeps them together.
"""

# KEYS: lease. ARGV: owner, now, expires, milliseconds to live
LEASE = """
local held = redis.call('HMGET', KEYS[1], 'owner', 'expires')
if held[1] and held[1] ~= ARGV[1] and tonumber(held[2]) > tonumber(ARGV[2]) then
    return 0
end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'expires', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
"""

# KEYS: lease. ARGV: owner
RELEASE = """
if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then
    redis.call('DEL', KEYS[1])
end
"""

# KEYS: order, entries. ARGV: limit, milliseconds to live, then (rank, image id, entry) of each image.
# Eviction takes one key at a time: a half whose other half is gone could grow without bound, so it goes too.
BUFFER_ADD = """
if redis.call('ZCARD', KEYS[1]) ~= redis.call('HLEN', KEYS[2]) then
    redis.call('DEL', KEYS[1], KEYS[2])
end
for i = 3, #ARGV, 3 do
    redis.call('ZADD', KEYS[1], ARGV[i], ARGV[i + 1])
    redis.call('HSET', KEYS[2], ARGV[i + 1], ARGV[i + 2])
end
local last = -1 - tonumber(ARGV[1])
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, last)) do
    redis.call('HDEL', KEYS[2], id)
end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, last)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
"""
