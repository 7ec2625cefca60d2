"""Models: language model, preference model, value model, trie packing, sampling, checkpoints. Knows no store, no web."""
