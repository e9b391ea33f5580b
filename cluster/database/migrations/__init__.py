"""The steps from one schema of the database to the next, in the order of their numbers. `cluster.database.schema`
runs them.

A new step is a module of `versions` with the next number. Write it by hand; a test compares what all steps make with
`cluster.database.tables`.
"""
