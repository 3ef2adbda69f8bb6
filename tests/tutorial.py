"""The completion that the GRPO tutorial scores by hand."""

RIGHT = """<think>
Let me solve 2x + 3 = 7
Subtracting 3: 2x = 4
Dividing by 2: x = 2
Verification: 2(2) + 3 = 7 ✓
</think>
<answer>
x = 2
</answer>"""
