"""The embedded benchmark: characters drawn here instead of downloaded, their renderer, and the
script that pre-trained the backbone that ships with the lab."""
