"""PPO with a credit for each decision."""

from agents.credit_ppo.credit_ppo import CREDITS, RATIOS, CreditPPO
from agents.credit_ppo.critic import RidgeCritic

__all__ = ["CREDITS", "RATIOS", "CreditPPO", "RidgeCritic"]
