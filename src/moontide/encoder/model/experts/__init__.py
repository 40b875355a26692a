"""Mixtures of experts for the `experts` slot: guided by what a token says, or by what an objective needs."""
