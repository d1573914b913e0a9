"""The embedded default for a machine without GPU, endpoint or hub: an invented archive, a scripted backend, and a tiny
base model that can read. It shows that the plumbing works and lets the method's claims be tested in minutes; it says
nothing about large models.
"""
