"""Models: language model, preference model, value model, trie packing, sampling, checkpoints.

Each is imported from its own module, so that what needs little loads little. Knows no store and no page.
"""
