"""The request generator: arrivals, lengths and shared prefixes of requests, from a workload and a seed.

Knows no clock and no service: a request's arrival is a number here, and what follows on an answer is asked
for with the instant at which the answer ended. A recorded trace is found through the catalog.
"""
