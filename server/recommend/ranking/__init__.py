"""Ranking: a page of the candidates, ordered by predicted outcomes."""
