"""How traffic changes: the one who decides, and those who follow."""
