-- The end of a wrk run as one line of JSON: its own report is for people and rounds.
done = function(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        'summary {"requests":%d,"bytes":%d,"microseconds":%d,"failed":%d}\n',
        summary.requests, summary.bytes, summary.duration,
        errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
