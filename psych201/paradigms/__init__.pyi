from . import risky_choice as risky_choice
from . import two_armed_bandit as two_armed_bandit
