-- What wrk sends: one document of a random user, read or written.
-- Arguments: put|get|fill, number of users, seed. `fill` writes each user once (and a few twice) and says `filled`.
-- Prints its measure as one line of JSON after "measure ".

local made = 0

function setup(thread)
    thread:set("id", made)
    made = made + 1
    thread:set("threads", tonumber(os.getenv("BENCH_THREADS")))
end

local value = '{"theme":"dark","language":"en-GB","density":"compact","sidebar":true,"fontSize":14,"note":"%06d-%09d"}'
local headers = {
    ["Authorization"] = "Bearer " .. os.getenv("BENCH_TOKEN"),
    ["Content-Type"] = "application/json",
}

function init(args)
    action, users = args[1], tonumber(args[2])
    math.randomseed(tonumber(args[3]) * 1000 + id)
    sent, answered = 0, 0
    mine = math.floor((users - id + threads - 1) / threads)
    if action == "fill" then
        response = function(status)
            answered = answered + 1
            if answered == mine + 256 then
                io.write("filled\n")
                io.flush()
            end
        end
    end
end

function request()
    local user
    if action == "fill" then
        user = (sent % mine) * threads + id
    else
        user = math.random(0, users - 1)
    end
    sent = sent + 1
    local path = string.format("/v1/users/u%07d/docs/preferences/ui", user)
    if action == "get" then
        return wrk.format("GET", path, headers)
    end
    return wrk.format("PUT", path, headers, string.format(value, user, sent))
end

function done(summary, latency)
    io.write(string.format(
        'measure {"requests": %d, "seconds": %.6f, "p50_ms": %.4f, "p99_ms": %.4f, "max_ms": %.4f, "refused": %d, "broken": %d}\n',
        summary.requests, summary.duration / 1e6,
        latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3,
        summary.errors.status,
        summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
    ))
end
