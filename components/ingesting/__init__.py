"""The parts of `ingest`: the plan of what belongs where, and the writing of one shard."""
