-- Rewrite the REST transcoder's plain-text 400 as a google.rpc.Status with a google.rpc.BadRequest that
-- names the field.

-- Replace bytes that aren't valid UTF-8, which a message may quote from the request.
local function readable(text)
  local rest = text:gsub('[\194-\223][\128-\191]', '')
  rest = rest:gsub('[\224-\239][\128-\191][\128-\191]', '')
  rest = rest:gsub('[\240-\244][\128-\191][\128-\191][\128-\191]', '')
  if rest:find('[\128-\255]') then
    return (text:gsub('[\128-\255]', '?'))
  end
  return text
end

local function quoted(text)
  return '"' .. text:gsub('[%c"\\]', function(character)
    return string.format('\\u%04x', character:byte())
  end) .. '"'
end

function envoy_on_response(handle)
  local headers = handle:headers()
  if headers:get(':status') ~= '400' or headers:get('content-type') ~= 'text/plain' then
    return
  end
  headers:replace('content-type', 'application/json')
  -- `headers` is invalid once the body has been awaited.
  local body = handle:body()
  if not body then
    return
  end
  -- Without a field the message begins with a colon.
  local message = readable(body:getBytes(0, body:length())):gsub('^: ', '')
  -- `page_size: invalid value …`, or `Could not find field "pagesize" in the type …`.
  local field = message:match('^([%w_%.%[%]]+): ') or message:match('find field "([^"]+)"')
  local details = ''
  if field then
    details = '{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"field":'
      .. quoted(field) .. ',"description":' .. quoted(message) .. '}]}'
  end
  local answer = '{"code":3,"message":' .. quoted(message) .. ',"details":[' .. details .. ']}'
  handle:headers():replace('content-length', body:setBytes(answer))
end
