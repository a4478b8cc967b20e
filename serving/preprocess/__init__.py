"""The one preprocessing contract: picture bytes -> RGB pixels -> the network's input, with the way back for boxes.

`decode` reads bytes (limits first), `reference.prepare` is the exact path of docs/preprocessing.md, `fast` the cheaper
one that a model may use once its certificate row `preprocess_fast` passed.
"""
