"""Makes an index of any number of calls, as three years of a company's telephones would leave it, and sidecars of them.

Rows go in by SQL, a hundred thousand calls a statement, in the real tables; numbers and names are normalised by the functions
that do so in earnest. The same number of calls gives the same archive again.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from rokuon.store.database import SANDBOX, make_index
from rokuon.store.layout import Layout, identity, make_id
from rokuon.store.names import fold
from rokuon.store.numbers import WITHHELD, e164, plain
from rokuon.store.sidecar import Sidecar, iso

FIRST_DAY = datetime(2023, 11, 25)
DAYS = 3 * 365 + 1
REGION = "JP"
CHUNK = 100_000
BY_WEEKDAY = (10, 11, 11, 10, 12, 3, 1)
BY_HOUR_UTC = (9, 12, 10, 6, 9, 10, 9, 8, 6, 4, 2, 2, 1, 1, 1, 0.5, 0.3, 0.3, 0.2, 0.2, 0.3, 0.5, 1, 3)
SURNAMES = ("佐藤", "鈴木", "高橋", "田中", "伊藤", "渡辺", "山本", "中村", "小林", "加藤", "吉田", "山田", "佐々木", "山口",
    "松本", "井上", "木村", "林", "斎藤", "清水", "山崎", "森", "池田", "橋本", "阿部", "石川", "前田", "藤田", "小川",
    "岡田")
GIVEN = ("太郎", "花子", "健", "美咲", "翔", "陽菜", "大輔", "さくら", "誠", "恵", "一郎", "直美", "浩", "裕子", "蓮", "葵",
    "隆", "香織", "学", "由美")
KANA = ("ﾀﾅｶ ﾀﾛｳ", "ｽｽﾞｷ ﾊﾅｺ", "ﾔﾏﾀﾞ ﾏｺﾄ", "サトウ ケン", "ｺﾊﾞﾔｼ ﾕｳｺ", "Smith", "Jörg Straße", "Ｂｏｂ", "株式会社　録音",
    "営業部", "総務部", "代表")
AREAS = ("03", "06", "052", "011", "092", "045", "078", "0120")

SLOTS = "CREATE TEMP TABLE slots (first BIGINT, behind BIGINT, start TIMESTAMP)"
PARTIES = """CREATE TEMP TABLE parties (kind VARCHAR, n BIGINT, number VARCHAR, name VARCHAR, uri VARCHAR, address VARCHAR,
                                        e164 VARCHAR, plain VARCHAR, folded VARCHAR)"""
MACROS = """
CREATE TEMP MACRO chance(n, k) AS (hash(n * 64 + k) % 1048573) / 1048573.0;
CREATE TEMP MACRO of_pool(n, k, size) AS CAST(floor(pow(chance(n, k), 2.5) * size) AS BIGINT);
CREATE TEMP MACRO base32(h) AS list_aggregate(list_transform(range(8),
    lambda k: substr('abcdefghijklmnopqrstuvwxyz234567', CAST((h >> (5 * k)) & 31 AS INTEGER) + 1, 1)), 'string_agg', '');
"""
# Ten calls: 4 from outside, 4 to outside with the company's number in a further header field, 2 within; parties are few and
# often the same, as telephones are.
DRAWN = """
CREATE OR REPLACE TEMP TABLE drawn AS
WITH times AS (
    SELECT n, start + to_microseconds(CAST(3.6e9 * (n - first + chance(n, 1)) / (behind - first) AS BIGINT)) AS start_time
    FROM (SELECT unnest(range(greatest(first, $begin), least(behind, $behind))) AS n, first, behind, start
          FROM slots WHERE first < $behind AND behind > $begin)
), kinds AS (
    SELECT *, chance(n, 2) AS way, chance(n, 3) AS fate, chance(n, 4) AS luck FROM times
), picked AS (
    SELECT *,
        if(way < 0.4, 'out', 'in') AS caller_kind, if(way >= 0.4 AND way < 0.8, 'out', 'in') AS callee_kind,
        of_pool(n, 5, if(way < 0.4, $outside, $inside)) AS caller_n,
        of_pool(n, 6, if(way >= 0.4 AND way < 0.8, $outside, $inside)) AS callee_n,
        CASE WHEN fate < 0.74 THEN 'answered' WHEN fate < 0.83 THEN 'cancelled' WHEN fate < 0.90 THEN 'no-answer'
             WHEN fate < 0.94 THEN 'busy' WHEN fate < 0.97 THEN 'failed' WHEN fate < 0.985 THEN 'rtp-only' ELSE 'excluded' END
        AS state,
        round(2 + 18 * luck, 6) AS ringing, round(3 - 150 * ln(1.0 - chance(n, 7)), 6) AS talk,
        CASE WHEN chance(n, 8) < 0.8 THEN 'PCMU' WHEN chance(n, 8) < 0.9 THEN 'PCMA' WHEN chance(n, 8) < 0.96 THEN 'G722'
             ELSE 'opus' END AS codec,
        if(chance(n, 9) < 0.9, 0, CAST(floor(100 * chance(n, 10)) AS BIGINT)) AS lost
    FROM kinds
)
SELECT d.n, strftime(start_time, '%Y%m%dT%H%M%SZ-') || base32(hash(d.n * 64 + 11)) AS id, start_time, state, codec, lost,
       state IN ('answered', 'rtp-only') AS heard, state = 'answered' AS answered,
       start_time + to_microseconds(CAST(1e6 * ringing AS BIGINT)) AS answer_time,
       start_time + to_microseconds(CAST(1e6 * (ringing + if(state IN ('answered', 'rtp-only'), talk, 0)) AS BIGINT)) AS end_time,
       ringing, talk, luck, way, r AS caller, e AS callee
FROM picked d JOIN parties r ON r.kind = d.caller_kind AND r.n = d.caller_n
              JOIN parties e ON e.kind = d.callee_kind AND e.n = d.callee_n
"""
FILL = ("""
INSERT INTO calls BY NAME
SELECT id, 1 AS revision, state,
       CASE state WHEN 'answered' THEN 200 WHEN 'cancelled' THEN 487 WHEN 'busy' THEN 486 WHEN 'no-answer' THEN 480
                  WHEN 'failed' THEN 503 END AS sip_status,
       CASE WHEN state = 'cancelled' THEN 'cancel' WHEN state IN ('answered', 'excluded') THEN 'bye'
            WHEN state = 'rtp-only' THEN 'timeout' ELSE 'reject' END AS end_reason,
       if(answered, if(luck < 0.6, 'caller', 'callee'), NULL) AS hangup_by, start_time,
       if(answered, answer_time, NULL) AS answer_time, end_time, if(answered, talk, NULL) AS duration_s,
       if(answered, ringing, NULL) AS setup_s,
       caller.number AS caller_number, caller.name AS caller_name, caller.uri AS caller_uri, caller.address AS caller_address,
       callee.number AS callee_number, callee.name AS callee_name, callee.uri AS callee_uri, callee.address AS callee_address,
       if(heard, codec, NULL) AS codec, if(heard, CAST(100 * talk AS BIGINT), 0) AS packets, if(heard, lost, 0) AS lost,
       if(heard AND codec <> 'opus', round(4.41 - lost / 60, 2), NULL) AS mos,
       if(heard, round(8 * luck * luck, 3), NULL) AS jitter_ms,
       if(heard, 'recordings/' || strftime(start_time, '%Y/%m/%d/%H/') || id || '.wav', NULL) AS audio_path,
       if(heard, if(codec = 'PCMA', 'wav/alaw', if(codec = 'PCMU', 'wav/ulaw', 'wav/pcm16')), NULL) AS audio_format,
       if(heard, talk, NULL) AS audio_duration_s, if(heard, CAST(16000 * talk AS BIGINT), NULL) AS audio_bytes,
       if(heard, NULL, if(state = 'excluded', 'excluded by a rule', 'no media')) AS audio_reason, 'eth1' AS interface,
       caller.e164 AS caller_e164, callee.e164 AS callee_e164, caller.plain AS caller_plain, callee.plain AS callee_plain,
       caller.folded AS caller_folded, callee.folded AS callee_folded,
       nullif(concat_ws(chr(10), if(way >= 0.4 AND way < 0.8, '< +813120' || caller.number, NULL),
                        if(luck < 0.02, '要確認', NULL), if(luck < 0.001, '折り返し済み', NULL)), '') AS words
FROM drawn ORDER BY n""", """
INSERT INTO legs BY NAME
SELECT id, leg, md5(CAST(n * 2 + leg AS VARCHAR)) || '@pbx.example' AS call_id,
       substr(md5(CAST(n * 2 + leg + 0.5 AS VARCHAR)), 1, 10) AS from_tag,
       if(answered, substr(md5(CAST(n * 2 + leg + 0.25 AS VARCHAR)), 1, 10), '') AS to_tag, caller.number AS caller_number,
       callee.number AS callee_number,
       start_time, if(answered, answer_time, NULL) AS answer_time, end_time, end_time AS last_time,
       if(answered, 200, 480) AS sip_status, if(leg = 0, NULL, 'transfer') AS linked_by
FROM drawn, (SELECT unnest([0, 1]) AS leg) WHERE state <> 'rtp-only' AND (leg = 0 OR luck < 0.1) ORDER BY n, leg""", """
INSERT INTO streams BY NAME
SELECT id, side AS stream, 0 AS leg, if(side = 0, 'caller', 'callee') AS direction,
       if(side = 0, caller, callee).address || ':' || CAST(10000 + 2 * (hash(n * 4 + side) % 20000) AS VARCHAR) AS src,
       if(side = 0, callee, caller).address || ':' || CAST(10000 + 2 * (hash(n * 4 + 1 - side) % 20000) AS VARCHAR) AS dst,
       CAST([] AS INTEGER[]) AS vlan, CAST(hash(n * 4 + 2 + side) % 4294967296 AS BIGINT) AS ssrc,
       CASE codec WHEN 'PCMU' THEN 0 WHEN 'PCMA' THEN 8 WHEN 'G722' THEN 9 ELSE 111 END AS payload_type, codec,
       if(codec = 'opus', 48000, 8000) AS clock_rate, answer_time AS first_time, end_time AS last_time,
       CAST(50 * talk AS BIGINT) AS packets, if(side = 0, lost, 0) AS lost, 0 AS duplicates, 0 AS reordered,
       round(8 * luck * luck * (side + 1) / 2, 3) AS jitter_ms, round(30 * luck, 3) AS max_jitter_ms,
       if(codec = 'opus', NULL, 93.2 - if(side = 0, lost / 5, 0)) AS r_factor,
       if(codec = 'opus', NULL, round(4.41 - if(side = 0, lost / 60, 0), 2)) AS mos
FROM drawn, (SELECT unnest([0, 1]) AS side) WHERE heard ORDER BY n, side""", """
INSERT INTO events BY NAME
SELECT id, event, answer_time + to_seconds(event + 1) AS time,
       if(luck < 0.1, 'dtmf', if(event % 2 = 0, 'hold', 'resume')) AS type,
       'caller' AS side, NULL AS detail
FROM drawn, (SELECT unnest([0, 1, 2, 3]) AS event)
WHERE answered AND luck < 0.15 AND (luck < 0.1 OR event < 2) ORDER BY n, event""", """
INSERT INTO annotations BY NAME
SELECT id, annotation, if(annotation = 0, 'tag', 'note') AS kind, if(annotation = 0, '要確認', '折り返し済み') AS value
FROM drawn, (SELECT unnest([0, 1]) AS annotation)
WHERE luck < if(annotation = 0, 0.02, 0.001) ORDER BY n, annotation""")


def pool(calls: int) -> Iterator[list[Any]]:
    """Everybody who telephones: rows of `parties`."""
    chance = random.Random(6)
    inside, outside = sizes(calls)
    for n in range(inside):
        name = f"{chance.choice(SURNAMES)} {chance.choice(GIVEN)}" if chance.random() < 0.8 else chance.choice(KANA)
        yield party("in", n, str(1000 + n), name, f"10.1.{n >> 8 & 255}.{n & 255}")
    for n in range(outside):
        kind = chance.random()
        number = "anonymous" if kind < 0.02 else mobile(chance) if kind < 0.5 else land(chance) if kind < 0.97 else abroad(chance)
        known = chance.random()
        name = chance.choice(KANA) if known < 0.2 else f"{chance.choice(SURNAMES)}{chance.choice(GIVEN)}" if known < 0.3 else ""
        yield party("out", n, number, name, f"192.0.2.{1 + n % 4}")


def sizes(calls: int) -> tuple[int, int]:
    """Telephones within, numbers outside."""
    return min(3000, 50 + calls // 100), min(100_000, 200 + calls // 20)


def mobile(chance: random.Random) -> str:
    return f"0{chance.choice('789')}0{chance.randrange(10_000_000, 99_999_999)}"


def land(chance: random.Random) -> str:
    area = chance.choice(AREAS)
    return area + "".join(chance.choice("23456789") if k == 0 else chance.choice("0123456789") for k in range(10 - len(area)))


def abroad(chance: random.Random) -> str:
    return f"+1212{chance.randrange(2_000_000, 9_999_999)}"


def party(kind: str, n: int, number: str, name: str, address: str) -> list[Any]:
    host = "anonymous.invalid" if number == "anonymous" else "pbx.example"
    return [kind, n, number, name, f"sip:{number}@{host}", address, e164(number, REGION),
            WITHHELD if number == "anonymous" else plain(number), fold(name)]


def slots(calls: int) -> list[tuple[int, int, datetime]]:
    """Which calls start in which hour: working hours of working days, mostly."""
    weights = [(FIRST_DAY + timedelta(days=day, hours=hour), BY_WEEKDAY[(FIRST_DAY + timedelta(days=day)).weekday()] * by_hour)
               for day in range(DAYS) for hour, by_hour in enumerate(BY_HOUR_UTC)]
    whole, before, made = sum(weight for _, weight in weights), 0.0, []
    for start, weight in weights:
        first, behind = int(calls * before / whole), int(calls * (before + weight) / whole)
        before += weight
        if behind > first:
            made.append((first, behind, start))
    first, _, start = made.pop()
    return [*made, (first, calls, start)]  # whatever sums of fractions come to


def rows_in(db: duckdb.DuckDBPyConnection, table: str, rows: list[Any]) -> None:
    """Many rows by one statement, a list a column."""
    for at in range(0, len(rows), 10_000):
        columns = [list(column) for column in zip(*rows[at:at + 10_000], strict=True)]
        db.execute(f"INSERT INTO {table} SELECT {', '.join(['unnest(?)'] * len(columns))}", columns)


def make(layout: Layout, calls: int) -> None:
    """An archive's index of so many calls; it takes the place of one that is there."""
    layout.prepare()
    layout.index.unlink(missing_ok=True)
    make_index(layout.index)
    inside, outside = sizes(calls)
    with duckdb.connect(str(layout.index), config=SANDBOX | {"memory_limit": "4GB"}) as db:
        db.execute(SLOTS)
        db.execute(PARTIES)
        rows_in(db, "slots", slots(calls))
        rows_in(db, "parties", list(pool(calls)))
        db.execute(MACROS)
        last = db.execute("SELECT max(behind) FROM slots").fetchone()
        for begin in range(0, last[0] if last else 0, CHUNK):
            db.execute(DRAWN, {"begin": begin, "behind": begin + CHUNK, "inside": inside, "outside": outside})
            for statement in FILL:
                db.execute(statement)
            if sys.stderr.isatty():
                print(f"\r{begin + CHUNK:,} calls", end="", file=sys.stderr, flush=True)
        db.execute("DROP TABLE drawn")
        db.execute("CHECKPOINT")


# -- sidecars ------------------------------------------------------------------
SECOND = 1_000_000_000
BEGIN = 1_795_489_200 * SECOND  # 2026-11-24T03:00:00Z, past the last of the made index
STATES = ("answered", "answered", "answered", "cancelled", "answered", "no-answer", "answered", "busy")
STATUS = {"answered": 200, "cancelled": 487, "no-answer": 480, "busy": 486}


def sidecar(n: int, begin: int = BEGIN) -> Sidecar:
    """Number n of calls that start three seconds after one another, as the finaliser would write it."""
    chance = random.Random(n)
    start = begin + n * 3 * SECOND + chance.randrange(SECOND) // 1000 * 1000
    state, codec = STATES[n % len(STATES)], chance.choice(["PCMU", "PCMU", "PCMU", "PCMA", "G722", "opus"])
    answered = state == "answered"
    answer = start + chance.randrange(2, 20) * SECOND
    end = answer + chance.randrange(5, 600) * SECOND if answered else answer
    call_id = make_id(start, identity(f"{n}@pbx.example", "bench"))
    people = [{"number": mobile(chance) if chance.random() < 0.6 else str(chance.randrange(1000, 4000)),
               "name": f"{chance.choice(SURNAMES)} {chance.choice(GIVEN)}", "uri": f"sip:{n}-{k}@pbx.example",
               "address": f"10.1.{k}.{n % 250}"} for k in range(2)]
    tags = (f"{chance.getrandbits(40):x}", f"{chance.getrandbits(40):x}" if answered else "")
    streams = [stream(side, k, n, answer, end, codec) for k, side in enumerate(("caller", "callee"))] if answered else []
    messages = [{"time": iso(start + k * 20_000_000), "src": "10.1.0.1:5060", "dst": "10.1.1.1:5060", "transport": "udp",
                 "call_id": f"{n}@pbx.example", "cseq": "1 INVITE", "first_line": line}
                for k, line in enumerate(("INVITE sip:100@pbx.example SIP/2.0", "SIP/2.0 100 Trying", "SIP/2.0 180 Ringing",
                                          f"SIP/2.0 {STATUS[state]} ", "ACK sip:100@pbx.example SIP/2.0",
                                          "BYE sip:100@pbx.example SIP/2.0", "SIP/2.0 200 OK"))]
    events = [{"time": iso(answer + k * SECOND), "type": "dtmf", "side": "caller", "detail": None, "duration_ms": 120}
              for k in range(3)] if answered and n % 10 == 0 else []
    path = f"recordings/{call_id[:4]}/{call_id[4:6]}/{call_id[6:8]}/{call_id[9:11]}/{call_id}.wav"
    return {
        "id": call_id, "schema": 1, "revision": 1, "state": state, "sip_status": STATUS[state],
        "end_reason": "bye" if answered else "cancel" if state == "cancelled" else "reject",
        "hangup_by": "caller" if answered else None,
        "start": iso(start), "answer": iso(answer) if answered else None, "end": iso(end),
        "duration_s": (end - answer) / 1e9 if answered else None, "setup_s": (answer - start) / 1e9 if answered else None,
        "caller": people[0], "callee": people[1], "parties": [],
        "legs": [{"call_id": f"{n}@pbx.example", "from_tag": tags[0], "to_tag": tags[1], "caller": people[0], "callee": people[1],
                  "start": iso(start), "answer": iso(answer) if answered else None, "end": iso(end), "sip_status": STATUS[state],
                  "linked_by": None}],
        "streams": streams, "events": events, "messages": messages,
        "audio": {"path": path, "format": "wav/ulaw", "channels": 2, "sample_rate": 8000, "duration_s": (end - answer) / 1e9,
                  "start": iso(answer), "bytes": 16 * (end - answer) // 1_000_000, "sha256": f"{chance.getrandbits(256):064x}",
                  "corrections": [], "concealed_ms": 0} if answered else None,
        **({} if answered else {"audio_reason": "no media"}),
        "parts": [], "related": [], "anomalies": {},
        "recorder": {"version": "0", "host": "bench", "interface": "eth1", "dropped": 0},
        "tags": ["要確認"] if n % 50 == 0 else [], "notes": [], "hold": None,
    }


def stream(side: str, k: int, n: int, first: int, last: int, codec: str) -> dict[str, Any]:
    chance = random.Random(2 * n + k)
    lost = chance.randrange(50) if chance.random() < 0.1 else 0
    ends = [f"10.1.{end}.{n % 250}:{10_000 + 2 * chance.randrange(20_000)}" for end in range(2)]
    return {"direction": side, "leg": 0, "src": ends[k], "dst": ends[1 - k], "vlan": [], "ssrc": chance.getrandbits(32),
            "payload_type": {"PCMU": 0, "PCMA": 8, "G722": 9, "opus": 111}[codec], "codec": codec,
            "clock_rate": 48000 if codec == "opus" else 8000, "first": iso(first), "last": iso(last),
            "packets": (last - first) // 20_000_000, "lost": lost, "duplicates": 0, "reordered": 0,
            "jitter_ms": round(chance.random(), 3), "max_jitter_ms": round(9 * chance.random(), 3),
            "r_factor": None if codec == "opus" else 93.2 - lost / 5,
            "mos": None if codec == "opus" else round(4.41 - lost / 60, 2),
            "payload_sha256": f"{chance.getrandbits(256):064x}"}


def folder_of(root: str | Path) -> Layout:
    """The archive in a directory."""
    return Layout(Path(root).absolute())
