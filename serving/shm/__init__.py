"""How do tensors come and go through shared memory instead of through the request?"""
