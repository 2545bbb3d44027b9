"""What does it cost to count what becomes of requests that were drawn?"""
