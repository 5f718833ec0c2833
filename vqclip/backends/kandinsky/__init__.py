"""Kandinsky 2.2 as a backend, full-size or the small one that ships."""
