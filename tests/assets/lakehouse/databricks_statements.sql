-- create_table
CREATE TABLE `main`.`bronze`.`shop__t`
TBLPROPERTIES ('delta.enableDeletionVectors' = 'true', 'delta.enableTypeWidening' = 'true', 'delta.feature.timestampNtz' = 'supported', 'delta.dataSkippingStatsColumns' = '`_headrace_run`,`_headrace_loaded_at`,`_headrace_op`,`_headrace_position`,`_headrace_state`', 'headrace.source' = 'shop/public.t')
AS SELECT `id`, `na``me`, `price`, `_headrace_run`, `_headrace_loaded_at`, `_headrace_op`, `_headrace_position`, CAST(NULL AS STRING) AS `_headrace_state` FROM (
SELECT `id`, `na``me`, `price`, `_headrace_run`, `_headrace_loaded_at`, `_headrace_op`, `_headrace_position` FROM read_files('/Volumes/main/headrace/staging/staging/shop/t/run/rows-a1/{part-0.parquet,part-1.parquet}', format => 'parquet', schema => '`id` INT, `na``me` STRING, `price` DECIMAL(12,2), `_headrace_run` STRING, `_headrace_loaded_at` TIMESTAMP, `_headrace_op` STRING, `_headrace_position` BIGINT')
) AS d
UNION ALL
SELECT CAST(NULL AS INT) AS `id`, CAST(NULL AS STRING) AS `na``me`, CAST(NULL AS DECIMAL(12,2)) AS `price`, 'it\'s \\ a tag' AS `_headrace_run`, current_timestamp() AS `_headrace_loaded_at`, 's' AS `_headrace_op`, CAST(NULL AS BIGINT) AS `_headrace_position`, '{"commits": 2, "tags": ["it\'s \\\\ a tag"], "watermark": null, "follows": 1}' AS `_headrace_state`;

-- replace_table
CREATE OR REPLACE TABLE `main`.`silver`.`shop__t`
CLUSTER BY (`id`)
TBLPROPERTIES ('delta.enableDeletionVectors' = 'true', 'delta.enableTypeWidening' = 'true', 'delta.feature.timestampNtz' = 'supported', 'delta.dataSkippingStatsColumns' = '`id`,`_headrace_run`,`_headrace_loaded_at`,`_headrace_position`,`_headrace_deleted_at`,`_headrace_state`', 'headrace.source' = 'shop/public.t')
AS SELECT CAST(NULL AS INT) AS `id`, CAST(NULL AS STRING) AS `na``me`, CAST(NULL AS DECIMAL(12,2)) AS `price`, 'it\'s \\ a tag' AS `_headrace_run`, current_timestamp() AS `_headrace_loaded_at`, CAST(NULL AS BIGINT) AS `_headrace_position`, CAST('1970-01-01T00:00:00Z' AS TIMESTAMP) AS `_headrace_deleted_at`, CASE WHEN (SELECT max(`_headrace_run`) FROM `main`.`silver`.`shop__t` WHERE `_headrace_state` IS NOT NULL) <=> 'old' THEN '{"commits": 2, "tags": ["it\'s \\\\ a tag"], "watermark": null, "follows": 1}' ELSE raise_error('HEADRACE_STATE_MOVED') END AS `_headrace_state`;

-- append
MERGE WITH SCHEMA EVOLUTION INTO `main`.`bronze`.`shop__t` AS t
USING (
SELECT `id`, `na``me`, `price`, `_headrace_run`, `_headrace_loaded_at`, `_headrace_op`, `_headrace_position`, CAST(NULL AS STRING) AS `_headrace_state` FROM (
SELECT `id`, `na``me`, `price`, `_headrace_run`, `_headrace_loaded_at`, `_headrace_op`, `_headrace_position` FROM read_files('/Volumes/main/headrace/staging/staging/shop/t/run/rows-a1/{part-0.parquet,part-1.parquet}', format => 'parquet', schema => '`id` INT, `na``me` STRING, `price` DECIMAL(12,2), `_headrace_run` STRING, `_headrace_loaded_at` TIMESTAMP, `_headrace_op` STRING, `_headrace_position` BIGINT')
) AS d
UNION ALL
SELECT CAST(NULL AS INT) AS `id`, CAST(NULL AS STRING) AS `na``me`, CAST(NULL AS DECIMAL(12,2)) AS `price`, :run AS `_headrace_run`, current_timestamp() AS `_headrace_loaded_at`, 's' AS `_headrace_op`, CAST(NULL AS BIGINT) AS `_headrace_position`, CASE WHEN (SELECT max(`_headrace_run`) FROM `main`.`bronze`.`shop__t` WHERE `_headrace_state` IS NOT NULL) <=> :expected THEN :state ELSE raise_error('HEADRACE_STATE_MOVED') END AS `_headrace_state`
) AS s
ON CASE WHEN t.`_headrace_state` IS NOT NULL THEN 1 END = CASE WHEN s.`_headrace_state` IS NOT NULL THEN 1 END AND t.`_headrace_state` IS NOT NULL
WHEN MATCHED THEN UPDATE SET t.`_headrace_state` = s.`_headrace_state`, t.`_headrace_run` = s.`_headrace_run`, t.`_headrace_loaded_at` = s.`_headrace_loaded_at`
WHEN NOT MATCHED THEN INSERT (`id`, `na``me`, `price`, `_headrace_run`, `_headrace_loaded_at`, `_headrace_op`, `_headrace_position`, `_headrace_state`) VALUES (s.`id`, s.`na``me`, s.`price`, s.`_headrace_run`, s.`_headrace_loaded_at`, s.`_headrace_op`, s.`_headrace_position`, s.`_headrace_state`);

-- upsert
MERGE WITH SCHEMA EVOLUTION INTO `main`.`silver`.`shop__t` AS t
USING (
SELECT `id`, `na``me`, `price`, CASE WHEN `_row` > 1 THEN raise_error(concat('HEADRACE_KEY_NOT_UNIQUE ', to_json(named_struct('id', `id`)))) ELSE `_headrace_run` END AS `_headrace_run`, `_headrace_loaded_at`, `_headrace_position`, CAST(NULL AS TIMESTAMP) AS `_headrace_deleted_at`, `_headrace_op`, CAST(NULL AS STRING) AS `_headrace_state` FROM (
SELECT *, rank() OVER (PARTITION BY `id` ORDER BY `_headrace_position` DESC, `_headrace_op` DESC) AS `_rank`, row_number() OVER (PARTITION BY `id` ORDER BY `_headrace_position` DESC, `_headrace_op` DESC) AS `_row` FROM (
SELECT `id` AS `id`, `na``me` AS `na``me`, `price` AS `price`, `_headrace_run` AS `_headrace_run`, `_headrace_loaded_at` AS `_headrace_loaded_at`, `_headrace_position` AS `_headrace_position`, `_headrace_op` AS `_headrace_op` FROM `main`.`bronze`.`shop__t` WHERE `_headrace_run` = :tag AND `_headrace_state` IS NULL
) AS c
) AS r WHERE `_rank` = 1
UNION ALL
SELECT CAST(NULL AS INT) AS `id`, CAST(NULL AS STRING) AS `na``me`, CAST(NULL AS DECIMAL(12,2)) AS `price`, :run AS `_headrace_run`, current_timestamp() AS `_headrace_loaded_at`, CAST(NULL AS BIGINT) AS `_headrace_position`, CAST('1970-01-01T00:00:00Z' AS TIMESTAMP) AS `_headrace_deleted_at`, 's' AS `_headrace_op`, CASE WHEN (SELECT max(`_headrace_run`) FROM `main`.`silver`.`shop__t` WHERE `_headrace_state` IS NOT NULL) <=> :expected THEN :state ELSE raise_error('HEADRACE_STATE_MOVED') END AS `_headrace_state`
) AS s
ON t.`id` <=> s.`id` AND (t.`_headrace_state` IS NULL) <=> (s.`_headrace_state` IS NULL)
WHEN MATCHED AND s.`_headrace_op` = 's' THEN UPDATE SET t.`_headrace_state` = s.`_headrace_state`, t.`_headrace_run` = s.`_headrace_run`, t.`_headrace_loaded_at` = s.`_headrace_loaded_at`
WHEN MATCHED AND s.`_headrace_op` = 'd' AND t.`_headrace_deleted_at` IS NULL THEN UPDATE SET t.`_headrace_run` = s.`_headrace_run`, t.`_headrace_loaded_at` = s.`_headrace_loaded_at`, t.`_headrace_position` = s.`_headrace_position`, t.`_headrace_deleted_at` = s.`_headrace_loaded_at`
WHEN MATCHED AND s.`_headrace_op` = 'u' THEN UPDATE SET t.`id` = s.`id`, t.`na``me` = s.`na``me`, t.`price` = s.`price`, t.`_headrace_run` = s.`_headrace_run`, t.`_headrace_loaded_at` = s.`_headrace_loaded_at`, t.`_headrace_position` = s.`_headrace_position`, t.`_headrace_deleted_at` = s.`_headrace_deleted_at`
WHEN NOT MATCHED AND s.`_headrace_op` = 'u' THEN INSERT (`id`, `na``me`, `price`, `_headrace_run`, `_headrace_loaded_at`, `_headrace_position`, `_headrace_deleted_at`, `_headrace_state`) VALUES (s.`id`, s.`na``me`, s.`price`, s.`_headrace_run`, s.`_headrace_loaded_at`, s.`_headrace_position`, s.`_headrace_deleted_at`, s.`_headrace_state`);

-- upsert_versions
MERGE WITH SCHEMA EVOLUTION INTO `main`.`silver`.`shop__t` AS t
USING (
SELECT `id`, `na``me`, `price`, CASE WHEN `_row` > 1 THEN raise_error(concat('HEADRACE_KEY_NOT_UNIQUE ', to_json(named_struct('id', `id`)))) ELSE `_headrace_run` END AS `_headrace_run`, `_headrace_loaded_at`, `_headrace_position`, `_headrace_deleted_at`, `_headrace_op`, CAST(NULL AS STRING) AS `_headrace_state` FROM (
SELECT *, rank() OVER (PARTITION BY `id` ORDER BY `_headrace_position` DESC, `_headrace_op` DESC) AS `_rank`, row_number() OVER (PARTITION BY `id` ORDER BY `_headrace_position` DESC, `_headrace_op` DESC) AS `_row` FROM (
SELECT `id` AS `id`, `na``me` AS `na``me`, `price` AS `price`, `_headrace_run` AS `_headrace_run`, `_headrace_loaded_at` AS `_headrace_loaded_at`, `_headrace_position` AS `_headrace_position`, `_headrace_op` AS `_headrace_op`, CAST(NULL AS TIMESTAMP) AS `_headrace_deleted_at` FROM `main`.`bronze`.`shop__t` WHERE `_headrace_run` = :tag AND `_headrace_state` IS NULL
) AS c
) AS r WHERE `_rank` = 1
UNION ALL
SELECT CAST(NULL AS INT) AS `id`, CAST(NULL AS STRING) AS `na``me`, CAST(NULL AS DECIMAL(12,2)) AS `price`, :run AS `_headrace_run`, current_timestamp() AS `_headrace_loaded_at`, CAST(NULL AS BIGINT) AS `_headrace_position`, CAST('1970-01-01T00:00:00Z' AS TIMESTAMP) AS `_headrace_deleted_at`, 's' AS `_headrace_op`, CASE WHEN (SELECT max(`_headrace_run`) FROM `main`.`silver`.`shop__t` WHERE `_headrace_state` IS NOT NULL) <=> :expected THEN :state ELSE raise_error('HEADRACE_STATE_MOVED') END AS `_headrace_state`
) AS s
ON t.`id` <=> s.`id` AND (t.`_headrace_state` IS NULL) <=> (s.`_headrace_state` IS NULL)
WHEN MATCHED AND s.`_headrace_op` = 's' THEN UPDATE SET t.`_headrace_state` = s.`_headrace_state`, t.`_headrace_run` = s.`_headrace_run`, t.`_headrace_loaded_at` = s.`_headrace_loaded_at`
WHEN MATCHED AND s.`_headrace_op` = 'd' AND t.`_headrace_deleted_at` IS NULL THEN UPDATE SET t.`_headrace_run` = s.`_headrace_run`, t.`_headrace_loaded_at` = s.`_headrace_loaded_at`, t.`_headrace_position` = s.`_headrace_position`, t.`_headrace_deleted_at` = s.`_headrace_loaded_at`
WHEN MATCHED AND s.`_headrace_op` = 'u' THEN UPDATE SET t.`id` = s.`id`, t.`na``me` = s.`na``me`, t.`price` = s.`price`, t.`_headrace_run` = s.`_headrace_run`, t.`_headrace_loaded_at` = s.`_headrace_loaded_at`, t.`_headrace_position` = s.`_headrace_position`, t.`_headrace_deleted_at` = s.`_headrace_deleted_at`
WHEN NOT MATCHED AND s.`_headrace_op` = 'u' THEN INSERT (`id`, `na``me`, `price`, `_headrace_run`, `_headrace_loaded_at`, `_headrace_position`, `_headrace_deleted_at`, `_headrace_state`) VALUES (s.`id`, s.`na``me`, s.`price`, s.`_headrace_run`, s.`_headrace_loaded_at`, s.`_headrace_position`, s.`_headrace_deleted_at`, s.`_headrace_state`);

-- append_to_silver
MERGE WITH SCHEMA EVOLUTION INTO `main`.`silver`.`shop__t` AS t
USING (
SELECT CAST(NULL AS INT) AS `id`, CAST(NULL AS STRING) AS `na``me`, CAST(NULL AS DECIMAL(12,2)) AS `price`, :run AS `_headrace_run`, current_timestamp() AS `_headrace_loaded_at`, CAST(NULL AS BIGINT) AS `_headrace_position`, CAST('1970-01-01T00:00:00Z' AS TIMESTAMP) AS `_headrace_deleted_at`, CASE WHEN (SELECT max(`_headrace_run`) FROM `main`.`silver`.`shop__t` WHERE `_headrace_state` IS NOT NULL) <=> :expected THEN :state ELSE raise_error('HEADRACE_STATE_MOVED') END AS `_headrace_state`
) AS s
ON CASE WHEN t.`_headrace_state` IS NOT NULL THEN 1 END = CASE WHEN s.`_headrace_state` IS NOT NULL THEN 1 END AND t.`_headrace_state` IS NOT NULL
WHEN MATCHED THEN UPDATE SET t.`_headrace_state` = s.`_headrace_state`, t.`_headrace_run` = s.`_headrace_run`, t.`_headrace_loaded_at` = s.`_headrace_loaded_at`
WHEN NOT MATCHED THEN INSERT (`id`, `na``me`, `price`, `_headrace_run`, `_headrace_loaded_at`, `_headrace_position`, `_headrace_deleted_at`, `_headrace_state`) VALUES (s.`id`, s.`na``me`, s.`price`, s.`_headrace_run`, s.`_headrace_loaded_at`, s.`_headrace_position`, s.`_headrace_deleted_at`, s.`_headrace_state`);

-- read_state
SELECT `_headrace_state`, (SELECT count(*) FROM `main`.`bronze`.`shop__t` WHERE `_headrace_state` IS NULL) AS `total` FROM `main`.`bronze`.`shop__t` WHERE `_headrace_state` IS NOT NULL;

-- read_states
SELECT 0 AS `number`, `_headrace_state`, (SELECT count(*) FROM `main`.`bronze`.`shop__t` WHERE `_headrace_state` IS NULL) AS `total` FROM `main`.`bronze`.`shop__t` WHERE `_headrace_state` IS NOT NULL
UNION ALL
SELECT 1 AS `number`, `_headrace_state`, (SELECT count(*) FROM `main`.`silver`.`shop__t` WHERE `_headrace_state` IS NULL) AS `total` FROM `main`.`silver`.`shop__t` WHERE `_headrace_state` IS NOT NULL;

-- read_back
SELECT `_headrace_state`, (SELECT count(*) FROM `main`.`bronze`.`shop__t` WHERE `_headrace_state` IS NULL) AS `total`, (SELECT count(*) FROM `main`.`bronze`.`shop__t` WHERE `_headrace_run` = :tag AND `_headrace_state` IS NULL) AS `added` FROM `main`.`bronze`.`shop__t` WHERE `_headrace_state` IS NOT NULL;

-- count_live
SELECT count(*) FROM `main`.`silver`.`shop__t` WHERE `_headrace_deleted_at` IS NULL AND `_headrace_state` IS NULL;

-- scan
SELECT `id`, `na``me` FROM `main`.`silver`.`shop__t` WHERE `_headrace_state` IS NULL AND `_headrace_deleted_at` IS NULL;

-- rows_of_run
SELECT `id` FROM `main`.`bronze`.`shop__t` WHERE `_headrace_state` IS NULL AND `_headrace_run` = :tag;

-- drop_table
DROP TABLE IF EXISTS `main`.`bronze`.`shop__t`;
