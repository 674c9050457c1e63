"How human-like is a language model? Scores transcripts of psychological experiments, response by response."
__version__ = "0.1.0"
