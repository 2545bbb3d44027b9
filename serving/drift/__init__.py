"""Do requests still look like what a version was made for?"""
