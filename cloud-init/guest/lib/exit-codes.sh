# How a program ends that the host runs in a guest. Bash and Python alike: it comes in front of the programs of both.
# The host's side, with whose fault each is: src/guest/protocol.ts.
E_DONE=0
E_BAD=1               # a module failed or does not load, as the result lines say
E_INPUT=2             # a variable or a file that cannot be used
E_NOT_FOUND=3         # the package sources do not have it
E_NO_MODULE=4         # no DKMS module in the package
E_NETWORK=5           # a mirror or a connection did not deliver: worth a retry
E_NOBODYS=6           # a module ended in an error that is not its own
E_NOT_INSTALLED=7     # a package does not install
E_DISK_FULL=8         # no space left in the guest
E_PACKAGE_MANAGER=9   # the package manager failed for another reason
E_INITRAMFS=10        # the initramfs could not be made
E_LEFT_BEHIND=11      # removing a package left something behind
E_TOOLCHAIN=12        # the machine has a toolchain and should have none
E_TOOLCHAIN_CAME=13   # a toolchain came along with the packages
E_LACKS=14            # the repository alone lacks what its packages depend on
E_OTHER_KERNEL=20     # another kernel runs
E_NO_HEADERS=21       # no headers for the kernel
