"""How much load does a gateway take, asked at a rate of ours?"""
