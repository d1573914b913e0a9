"""Whether records say what their documents do not: a check by code alone, without any model."""
