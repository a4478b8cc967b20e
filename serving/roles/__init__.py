"""The stages of a stream as roles of their own, each a process or a thread that meets the others on the log only.

    ingest -> frames -> worker -> results -> mixer (pictures)
                  \\_________________\\____-> accountant -> outcomes, dead_letter

The stage functions are those of `lockstep run` (`serving.streams`). A role adds what the log asks for: positions that
are committed after the work is acknowledged, partitions that come and go, records that nobody may trust.
"""
