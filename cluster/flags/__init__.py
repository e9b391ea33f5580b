"""Flags out: what a clinic must hear of, kept in an outbox until every destination has it."""
