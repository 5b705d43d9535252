"""Training one small real language model: text, tokenizers, the loop, and which runs of many are worth going on with."""
