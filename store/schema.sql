-- The index: what is searched and listed of every call. A view of the sidecars, which hold more (hashes, messages,
-- anomalies): `rokuon reindex` makes all of it again. Times are UTC. No secondary index: DuckDB's zone maps answer
-- from ten million rows in tens of milliseconds, and an index would cost that again for each row that is added.

CREATE TABLE meta (schema_version INTEGER NOT NULL);
INSERT INTO meta VALUES (1);

CREATE TABLE calls (
    id VARCHAR NOT NULL,            -- 20261124T013012Z-k7q2m5x4
    revision INTEGER,
    state VARCHAR,                  -- answered, cancelled, busy, no-answer, failed, rtp-only, in-progress, excluded
    sip_status INTEGER,             -- final response to INVITE
    end_reason VARCHAR,
    hangup_by VARCHAR,              -- caller, callee
    start_time TIMESTAMP,
    answer_time TIMESTAMP,
    end_time TIMESTAMP,
    duration_s DOUBLE,              -- answer to end
    setup_s DOUBLE,
    caller_number VARCHAR,          -- as signalled
    caller_name VARCHAR,
    caller_uri VARCHAR,
    caller_address VARCHAR,
    callee_number VARCHAR,
    callee_name VARCHAR,
    callee_uri VARCHAR,
    callee_address VARCHAR,
    codec VARCHAR,                  -- of the voice; several, in order of appearance, with a comma between them
    packets BIGINT,                 -- of all streams
    lost BIGINT,
    mos DOUBLE,                     -- of the worst stream
    jitter_ms DOUBLE,               -- of the worst stream
    audio_path VARCHAR,             -- relative to the data directory
    audio_format VARCHAR,
    audio_duration_s DOUBLE,
    audio_bytes BIGINT,
    audio_reason VARCHAR,           -- why there is no audio
    interface VARCHAR,
    caller_e164 VARCHAR,            -- +81312345678, null where it is no valid number of the public network
    callee_e164 VARCHAR,
    caller_plain VARCHAR,           -- without separators; anonymous where withheld
    callee_plain VARCHAR,
    caller_folded VARCHAR,          -- names, a line each: NFKC, case folded, no white space; kana as hiragana (docs/names.md)
    callee_folded VARCHAR,
    words VARCHAR                   -- a line each: further numbers (docs/names.md); folded, what --text looks through
);

CREATE TABLE legs (
    id VARCHAR NOT NULL,            -- of the call
    leg INTEGER,                    -- from 0, in the order of the sidecar
    call_id VARCHAR,
    from_tag VARCHAR,
    to_tag VARCHAR,
    caller_number VARCHAR,
    callee_number VARCHAR,
    start_time TIMESTAMP,
    answer_time TIMESTAMP,
    end_time TIMESTAMP,
    last_time TIMESTAMP,            -- end_time, or where that is not known the last that was seen of the call
    sip_status INTEGER,
    linked_by VARCHAR
);

CREATE TABLE streams (
    id VARCHAR NOT NULL,            -- of the call
    stream INTEGER,                 -- from 0, in the order of the sidecar
    leg INTEGER,
    direction VARCHAR,              -- who speaks: caller, callee
    src VARCHAR,                    -- 10.0.0.1:5004, [2001:db8::1]:5004
    dst VARCHAR,
    vlan INTEGER[],                 -- outermost first
    ssrc BIGINT,
    payload_type INTEGER,
    codec VARCHAR,
    clock_rate INTEGER,
    first_time TIMESTAMP,
    last_time TIMESTAMP,
    packets BIGINT,
    lost BIGINT,
    duplicates BIGINT,
    reordered BIGINT,
    jitter_ms DOUBLE,
    max_jitter_ms DOUBLE,
    r_factor DOUBLE,
    mos DOUBLE
);

CREATE TABLE events (
    id VARCHAR NOT NULL,            -- of the call
    event INTEGER,                  -- from 0, in the order of the sidecar
    time TIMESTAMP,
    type VARCHAR,                   -- dtmf, hold, resume, transfer, codec-change, ssrc-change
    side VARCHAR,
    detail VARCHAR                  -- null where masked
);

CREATE TABLE annotations (
    id VARCHAR NOT NULL,            -- of the call
    annotation INTEGER,             -- from 0, tags before notes before a hold before further ids
    kind VARCHAR,                   -- tag, note, hold, also-known-as
    value VARCHAR
);

-- Each call once for each of its two numbers.
CREATE VIEW call_numbers AS
    SELECT id, start_time, state, duration_s, 'caller' AS role, caller_number AS number, caller_e164 AS e164, caller_name AS name
    FROM calls
    UNION ALL
    SELECT id, start_time, state, duration_s, 'callee', callee_number, callee_e164, callee_name
    FROM calls;

-- Each stream with its share of lost packets and whose voice it is.
CREATE VIEW call_quality AS
    SELECT s.id, c.start_time, s.direction, if(s.direction = 'caller', c.caller_number, c.callee_number) AS number,
           s.src, s.dst, s.codec, s.packets, s.lost,
           round(100.0 * s.lost / nullif(s.packets + s.lost, 0), 3) AS lost_percent,
           s.jitter_ms, s.max_jitter_ms, s.r_factor, s.mos
    FROM streams s JOIN calls c USING (id);

-- Calls of each day (UTC) by state.
CREATE VIEW calls_per_day AS
    SELECT CAST(start_time AS DATE) AS day, state, count(*) AS calls, round(sum(duration_s), 3) AS duration_s
    FROM calls GROUP BY ALL;
