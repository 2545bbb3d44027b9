"""Who is told of what happens to traffic, and how does it reach them for certain?"""
