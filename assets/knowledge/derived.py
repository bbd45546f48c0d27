"""What is derived from evidence, as queries over ``mentions`` and ``statements`` (DuckDB). Deterministic to the row."""

from __future__ import annotations

from assets.knowledge.extractor import FUNCTIONAL

LISTED = 50
"""Most evidence, aliases and reasons that one row lists; the counts beside them count all."""

_ENTITIES = f"""
WITH named AS (
    SELECT entity_id, type, entity_name, count(*) AS times, max(length(entity_name)) AS size
    FROM mentions WHERE entity_id IS NOT NULL GROUP BY ALL
), best AS (
    -- the longest name says most; of equally long ones the more frequent, then the first in the alphabet
    SELECT entity_id, first(entity_name ORDER BY size DESC, times DESC, entity_name) AS canonical_name
    FROM named GROUP BY ALL
), called AS (
    SELECT entity_id, list(DISTINCT name) AS names FROM (
        SELECT entity_id, quote AS name FROM mentions WHERE entity_id IS NOT NULL AND type <> 'participant'
        UNION ALL SELECT entity_id, entity_name FROM mentions WHERE entity_id IS NOT NULL
    ) GROUP BY ALL
), reasons AS (
    SELECT entity_id, list(DISTINCT resolution) AS resolution FROM mentions
    WHERE entity_id IS NOT NULL AND resolution <> '' GROUP BY ALL
), facts AS (
    SELECT entity_id, list(DISTINCT attributes) AS attributes FROM mentions
    WHERE entity_id IS NOT NULL AND attributes <> '{{}}' GROUP BY ALL
)
SELECT m.entity_id, m.type, b.canonical_name,
    list_sort(list_filter(c.names, lambda name: name <> b.canonical_name))[1:{LISTED}] AS aliases,
    '[' || coalesce(array_to_string(list_sort(f.attributes)[1:{LISTED}], ', '), '') || ']' AS attributes,
    max(m.confidence) AS confidence, count(*) AS mentions, count(DISTINCT (m.source, m.session)) AS sessions,
    min(m."at") AS first_seen, max(m."at") AS last_seen,
    coalesce(list_sort(r.resolution)[1:{LISTED}], []::VARCHAR[]) AS resolution
FROM mentions m JOIN best b USING (entity_id) JOIN called c USING (entity_id)
    LEFT JOIN reasons r USING (entity_id) LEFT JOIN facts f USING (entity_id)
GROUP BY m.entity_id, m.type, b.canonical_name, c.names, f.attributes, r.resolution
"""

_FUNCTIONAL = ", ".join(f"'{name}'" for name in sorted(FUNCTIONAL))
_RELATIONS = f"""
WITH stated AS (
    SELECT substr(sha256(concat_ws(chr(31), 'relation', subject_id, predicate, object_id)), 1, 20) AS relation_id,
        subject_id, predicate, object_id,
        min("at") FILTER (WHERE NOT ends) AS valid_from, max("at") FILTER (WHERE NOT ends) AS last_stated,
        max("at") FILTER (WHERE ends) AS ended,
        bool_or(NOT ends) AS ever, max("at") FILTER (WHERE changed AND NOT ends) AS changed_at,
        min(statement_id, {LISTED}) AS evidence, count(*) AS evidence_count, max(confidence) AS confidence
    FROM statements WHERE kind = 'relation' GROUP BY ALL
), valid AS (
    SELECT a.*, coalesce(
        CASE WHEN a.ended IS NOT NULL AND (a.last_stated IS NULL OR a.ended >= a.last_stated) THEN a.ended END,
        -- said to have changed, later than this was said last: never by its own statements, which are not later
        CASE WHEN a.last_stated IS NOT NULL THEN b.changed_at END
    ) AS valid_to
    FROM stated a ASOF LEFT JOIN (
        SELECT subject_id, predicate, changed_at FROM stated
        WHERE changed_at IS NOT NULL AND predicate IN ({_FUNCTIONAL})
    ) b ON a.subject_id = b.subject_id AND a.predicate = b.predicate AND a.last_stated < b.changed_at
), together AS (
    -- the first few of each matter: a name that thousands of people share has thousands of homes
    SELECT subject_id, predicate, min(relation_id, {LISTED + 1}) AS ids FROM valid
    WHERE predicate IN ({_FUNCTIONAL}) AND valid_to IS NULL AND ever GROUP BY ALL HAVING count(*) > 1
), rivals AS (
    SELECT a.relation_id, list_filter(t.ids, lambda id: id <> a.relation_id)[1:{LISTED}] AS disputed_with
    FROM valid a JOIN together t USING (subject_id, predicate) WHERE a.valid_to IS NULL AND a.ever
)
SELECT relation_id, subject_id, predicate, object_id,
    CASE WHEN r.disputed_with IS NOT NULL THEN 'disputed' WHEN valid_to IS NOT NULL THEN 'ended' ELSE 'stated' END
    AS status,
    valid_from, valid_to, evidence, evidence_count, confidence,
    coalesce(r.disputed_with, []::VARCHAR[]) AS disputed_with
FROM valid LEFT JOIN rivals r USING (relation_id)
"""

_OBSERVATIONS = f"""
WITH own AS (SELECT * FROM statements WHERE kind <> 'relation'),
positions AS (
    -- whoever says different things about one matter contradicts themselves
    SELECT subject_id, kind, about, lower(value) AS value, min(statement_id, {LISTED}) AS ids FROM own
    WHERE kind <> 'decision' AND coalesce(about, '') <> '' GROUP BY ALL
), together AS (
    SELECT subject_id, kind, about, list({{'value': value, 'ids': ids}}) AS said FROM (
        SELECT * FROM positions
        QUALIFY row_number() OVER (PARTITION BY subject_id, kind, about ORDER BY value) <= {LISTED + 1}
    ) GROUP BY ALL HAVING count(*) > 1
), rivals AS (
    SELECT a.subject_id, a.kind, a.about, a.value, list_sort(flatten(list_transform(
        list_filter(t.said, lambda other: other.value <> a.value), lambda other: other.ids
    )))[1:{LISTED}] AS disputed_with
    FROM positions a JOIN together t USING (subject_id, kind, about)
)
SELECT o.statement_id AS observation_id, o.kind, o.source, o.session, o.message, o.start, o."end", o.quote,
    o.subject_id, o.about, o.value, o.polarity,
    CASE WHEN r.disputed_with IS NULL THEN 'stated' ELSE 'disputed' END AS status,
    coalesce(r.disputed_with, []::VARCHAR[]) AS disputed_with, o.confidence, o.role, o."at"
FROM own o LEFT JOIN rivals r
    ON r.subject_id = o.subject_id AND r.kind = o.kind AND r.about = o.about AND r.value = lower(o.value)
"""

DERIVED_QUERIES = {"entities": _ENTITIES, "relations": _RELATIONS, "observations": _OBSERVATIONS}

_STATE = (
    "to_json({{'canonical_name': {0}.canonical_name, 'aliases': {0}.aliases, 'mentions': {0}.mentions,"
    " 'sessions': {0}.sessions}})"
)
HISTORY_QUERY = f"""
WITH compared AS (
    SELECT coalesce(w.entity_id, h.entity_id) AS entity_id,
        CASE WHEN h.entity_id IS NULL THEN 'appeared' WHEN w.entity_id IS NULL THEN 'removed'
            WHEN h.canonical_name <> w.canonical_name THEN 'renamed'
            WHEN h.aliases <> w.aliases THEN 'aliases' ELSE 'evidence' END AS change,
        CASE WHEN h.entity_id IS NOT NULL THEN {_STATE.format("h")} END AS before,
        CASE WHEN w.entity_id IS NOT NULL THEN {_STATE.format("w")} END AS after
    FROM want_entities w FULL JOIN have_entities h USING (entity_id)
    WHERE h IS DISTINCT FROM w
)
SELECT substr(sha256(concat_ws(chr(31), entity_id, $run, $tag, change)), 1, 20) AS history_id, entity_id, change,
    CAST(before AS VARCHAR) AS before, CAST(after AS VARCHAR) AS after, $run AS run_group
FROM compared WHERE before IS DISTINCT FROM after
"""
