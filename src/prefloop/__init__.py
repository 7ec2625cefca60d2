"""prefloop: the whole loop of reinforcement learning from human feedback, from the chat page to the next snapshot."""

__version__ = "0.1.0"
