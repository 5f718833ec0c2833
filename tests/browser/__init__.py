"""Checks of the report pages in a real browser, run by hand: python -m tests.browser.check_page."""
