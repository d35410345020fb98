-- Validate a caller's request before it is forwarded, and set the timeout of a try.
--
-- Some requests that HTTP allows make a gRPC server fail, reset the stream or, for a path that isn't
-- UTF-8, stop accepting calls. So an invalid path or timeout, or an unknown compression, is rejected, and
-- headers that gRPC can't carry are removed.

local INVALID_ARGUMENT, UNIMPLEMENTED = '3', '12'
local UNITS = { H = 3600000, M = 60000, S = 1000, m = 1, u = 0.001, n = 0.000001 }
local GRPC = { ['grpc-timeout'] = true, ['grpc-encoding'] = true, ['grpc-accept-encoding'] = true }
local ENCODINGS = { identity = true, gzip = true, deflate = true }
-- Calls that another gateway may be tried for. Not what is recorded: where the log is slow all gateways
-- are, and slates must not lose them for it.
local HEDGED = { '^/vireo%.v1%.Re', '^/v1/re', '^/v1/viewers/', '^/v1/videos/', '^/v1/videos:[es]' }
local BATCH = '/vireo.v1.RecommendationService/BatchRecommend' -- a stream of minutes
-- Maximum milliseconds until another gateway is tried too, otherwise half of the caller's deadline: a
-- gateway that hangs then costs a call time, but doesn't fail it.
local MAX_TRY = 500 -- also half of the gateway's default deadline
-- Minimum, below which no other gateway is tried: one that exceeds it twice is ejected, which gateways
-- that hang should be, but not those whose callers have short deadlines.
local MIN_TRY = 150

-- Gateways share fairly between callers, whom they know by this header.
local CALLER = 'x-vireo-caller'
local MAX_CALLER = 512

local function refuse(handle, headers, code, why)
  if (headers:get('content-type') or ''):find('^application/grpc') then
    handle:respond({
      [':status'] = '200',
      ['content-type'] = 'application/grpc',
      ['grpc-status'] = code,
      ['grpc-message'] = why,
      ['grpc-accept-encoding'] = 'identity,deflate,gzip',
    }, '')
  else
    handle:respond({ [':status'] = '400', ['content-type'] = 'text/plain' }, why)
  end
end

local function hedged(path)
  for _, pattern in ipairs(HEDGED) do
    if path:find(pattern) then
      return true
    end
  end
  return false
end

-- Return whether gRPC can carry a header.
local function fit(name, value)
  if name:find('^:') then
    return true
  end
  if name:find('[^%l%d_.-]') or value:find('[^\32-\126]') then
    return false
  end
  -- gRPC parses its own headers and binary ones; of these gateways need only those in GRPC.
  return GRPC[name] or not (name:find('^grpc%-') or name:find('%-bin$'))
end

local function leave_out_unfit(headers)
  local unfit = {}
  for name, value in pairs(headers) do
    if not fit(name, value) then
      unfit[#unfit + 1] = name
    end
  end
  for _, name in ipairs(unfit) do
    -- The request id is returned to the caller, so it is repaired instead.
    local id = name == 'x-request-id' and headers:get(name):gsub('[^\32-\126]', '?')
    headers:remove(name)
    if id then
      headers:add(name, id)
    end
  end
end

-- Return a caller's name as a header can carry it: its token's subject, or else its address.
local function caller(handle)
  local token = handle:streamInfo():dynamicMetadata():get('envoy.filters.http.jwt_authn')
  local name = token and token.claims and token.claims.sub
  if type(name) ~= 'string' then
    name = handle:streamInfo():downstreamRemoteAddress():gsub(':%d+$', '')
    if name:find(':') then
      -- An IPv6 subscriber usually has a whole /64.
      local groups = {}
      for group in (name:match('^%[?(.-)::') or name):gmatch('%x+') do
        groups[#groups + 1] = group
      end
      name = table.concat(groups, ':', 1, math.min(4, #groups)) .. '::'
    end
  end
  local sendable = name:gsub('[^\33-\126]', function(character)
    return string.format('%%%02x', character:byte())
  end)
  return sendable:sub(1, MAX_CALLER)
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = headers:get(':path') or ''
  if path:find('[^\33-\126]') then
    refuse(handle, headers, INVALID_ARGUMENT, 'path: must be printable ASCII; percent-encode everything else')
    return
  end
  -- Envoy has already removed an invalid one of gRPC, but not of REST.
  local timeout = headers:get('grpc-timeout')
  local amount, unit = (timeout or ''):match('^(%d+)([HMSmun])$')
  if timeout and not (amount and #amount <= 8) then
    local why = 'grpc-timeout: must be 1 to 8 digits followed by one of H, M, S, m, u and n'
    refuse(handle, headers, INVALID_ARGUMENT, why)
    return
  end
  local encoding = headers:get('grpc-encoding')
  if encoding and not ENCODINGS[encoding] then
    refuse(handle, headers, UNIMPLEMENTED, 'grpc-encoding: must be identity, deflate or gzip')
    return
  end
  leave_out_unfit(headers)
  headers:remove(CALLER)
  headers:add(CALLER, caller(handle))
  if (headers:get('content-type') or ''):find('^application/grpc') then
    headers:replace('te', 'trailers') -- without it a gRPC server resets the stream
  end
  if path == BATCH or not hedged(path) then
    return -- for example a health watch, which is long-lived
  end
  local milliseconds = MAX_TRY
  if timeout then
    milliseconds = math.min(MAX_TRY, math.floor(0.5 * amount * UNITS[unit]))
  end
  if milliseconds >= MIN_TRY then
    headers:replace('x-envoy-upstream-rq-per-try-timeout-ms', string.format('%d', milliseconds))
  end
end
