"""The recommender: candidates in columns, the stages that a slate goes through, and their runner.

Training, evaluation and the services import it; it imports none of them.
"""
