"""Scores and bad cases: any runtime is asked through one door (`Runner`: sample -> typed result), so the certificate's
decision metric and the score agree.
"""
