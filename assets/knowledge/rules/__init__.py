"""Rules of the embedded extractor: what a small NER model misses in chats, or takes for something else."""
