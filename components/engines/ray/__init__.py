"""Ray sessions, actor pools, Ray Train trainers and backends."""
